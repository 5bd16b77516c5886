import { expect, test } from "vitest"
import { editDistance, nearestSpelling } from "./spelling.ts"

test.each([
  ["kitten", "kitten", 0],
  ["vacuum", "vaccumn", 2],
  ["index", "idnex", 1],
  ["replic", "replica", 1],
  ["", "abc", 3],
])("from %j to %j it is %i edits", (a, b, distance) => {
  expect(editDistance(a, b)).toBe(distance)
})

test("the nearest spelling is near, or there is none", () => {
  expect(nearestSpelling("postgrse", ["postgres", "postfix"])).toBe("postgres")
  expect(nearestSpelling("replicaton", ["replication", "replicas"])).toBe("replication")
  expect(nearestSpelling("abcde", ["xyzzy"])).toBeUndefined()
})
