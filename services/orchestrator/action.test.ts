import { describe, expect, it } from "vitest"
import {
  type Action,
  actionFor,
  type Effect,
  graver,
  type RiskClass,
  type Verdict,
} from "./action.ts"

describe("actionFor", () => {
  const table: readonly [Verdict, RiskClass, Effect, Action][] = [
    ["allowed", "low", "read", "execute"],
    ["allowed", "low", "keyed", "execute"],
    ["allowed", "low", "unsafe", "execute"],
    ["allowed", "medium", "read", "execute"],
    ["allowed", "medium", "keyed", "execute"],
    ["allowed", "medium", "unsafe", "execute"],
    ["allowed", "high", "read", "ask"],
    ["allowed", "high", "keyed", "ask"],
    ["allowed", "high", "unsafe", "ask"],
    ["flagged", "low", "read", "execute"],
    ["flagged", "low", "keyed", "ask"],
    ["flagged", "low", "unsafe", "ask"],
    ["flagged", "medium", "read", "execute"],
    ["flagged", "medium", "keyed", "ask"],
    ["flagged", "medium", "unsafe", "ask"],
    ["flagged", "high", "read", "ask"],
    ["flagged", "high", "keyed", "ask"],
    ["flagged", "high", "unsafe", "ask"],
  ]
  for (const [verdict, riskClass, effect, action] of table) {
    it(`${verdict}, ${riskClass}, ${effect} → ${action}`, () => {
      expect(actionFor({ verdict, riskClass, effect })).toBe(action)
    })
  }

  it("denies whatever is blocked or not a verdict", () => {
    for (const verdict of ["blocked", "", "ALLOWED", undefined, null, 1]) {
      for (const riskClass of ["low", "medium", "high"] as const) {
        for (const effect of ["read", "keyed", "unsafe"] as const) {
          expect(actionFor({ verdict: verdict as never, riskClass, effect })).toBe("deny")
        }
      }
    }
  })

  it("asks about a risk that nobody declared", () => {
    const riskClass = "unspecified" as never
    expect(actionFor({ verdict: "allowed", riskClass, effect: "read" })).toBe("ask")
  })
})

it("graver keeps the worst", () => {
  expect(graver(undefined, "allowed")).toBe("allowed")
  expect(graver("flagged", "allowed")).toBe("flagged")
  expect(graver("flagged", "blocked")).toBe("blocked")
})
