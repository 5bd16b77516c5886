import { parse } from "@bufbuild/cel"

/** The tree of an expression. */
export type Expr = ReturnType<typeof parse>["expr"]

/** An expression that cannot be used, with the reason and the place for its author. */
export class InvalidExpression extends Error {
  override readonly name = "InvalidExpression"

  constructor(
    cause: string,
    place?: { readonly line: number; readonly column: number },
    options?: ErrorOptions,
  ) {
    super(place === undefined ? cause : `${cause}, at ${place.line}:${place.column}`, options)
  }
}

/** The function that meters; no expression can name it. */
export const meterName = "runwarden_meter"

export const maxNesting = 2
export const maxNodes = 400
const maxDepth = 64

const plainOperator = /^(?:@in|@not_strictly_false|[^A-Za-z]+)$/
// Cheap in themselves; what they combine is metered.
const unmetered = new Set(["_&&_", "_||_", "!_", "_?_:_", "@not_strictly_false"])
const typeNames = new Set(
  "bool bytes double dyn int list map null_type string type uint".split(" "),
)

interface Names {
  readonly variables: ReadonlySet<string>
  readonly functions: ReadonlySet<string>
}

interface Walk {
  readonly names: Names
  readonly patterns: string[]
  nodes: number
}

/**
 * Walks the tree once: refuses what is unknown or cannot be bounded, collects the patterns given to
 * `matches`, and puts the meter before each call and into each loop's condition.
 */
export function boundExpression(
  expr: Expr,
  names: Names,
): { readonly expr: Expr; readonly patterns: readonly string[] } {
  const walk: Walk = { names, patterns: [], nodes: 0 }
  const bounded = visit(walk, expr, names.variables, 0, 0)
  return { expr: bounded, patterns: walk.patterns }
}

function visit(
  walk: Walk,
  expr: Expr,
  scope: ReadonlySet<string>,
  nesting: number,
  depth: number,
): Expr {
  walk.nodes += 1
  if (walk.nodes > maxNodes) throw new InvalidExpression(`it has more than ${maxNodes} parts`)
  if (depth > maxDepth) throw new InvalidExpression("it is nested too deeply")
  const into = (child: Expr | undefined, inScope = scope, inNesting = nesting): Expr => {
    if (child === undefined) throw new InvalidExpression("it is incomplete")
    return visit(walk, child, inScope, inNesting, depth + 1)
  }
  const { exprKind } = expr
  switch (exprKind.case) {
    case "constExpr":
      return expr
    case "identExpr":
      if (!scope.has(exprKind.value.name) && !typeNames.has(exprKind.value.name)) {
        throw new InvalidExpression(`there is no variable "${exprKind.value.name}"`)
      }
      return expr
    case "selectExpr":
      exprKind.value.operand = into(exprKind.value.operand)
      return expr
    case "callExpr": {
      const call = exprKind.value
      checkFunction(walk, call)
      if (call.target !== undefined) call.target = into(call.target)
      call.args = call.args.map((arg) => into(arg))
      if (!unmetered.has(call.function)) meterFirstOperand(call)
      return expr
    }
    case "listExpr":
      exprKind.value.elements = exprKind.value.elements.map((element) => into(element))
      return expr
    case "structExpr":
      if (exprKind.value.messageName !== "") {
        throw new InvalidExpression(`there is no message "${exprKind.value.messageName}"`)
      }
      for (const entry of exprKind.value.entries) {
        entry.value = into(entry.value)
        if (entry.keyKind.case === "mapKey") entry.keyKind.value = into(entry.keyKind.value)
      }
      return expr
    case "comprehensionExpr": {
      const loop = exprKind.value
      if (nesting >= maxNesting) {
        throw new InvalidExpression(`it loops more than ${maxNesting} deep`)
      }
      loop.iterRange = into(loop.iterRange)
      loop.accuInit = into(loop.accuInit)
      const within = new Set([...scope, loop.iterVar, loop.iterVar2, loop.accuVar])
      loop.loopCondition = metered(into(loop.loopCondition, within, nesting + 1))
      loop.loopStep = into(loop.loopStep, within, nesting + 1)
      loop.result = into(loop.result, within)
      return expr
    }
    default:
      throw new InvalidExpression("it holds something unknown")
  }
}

type Call = Extract<Expr["exprKind"], { case: "callExpr" }>["value"]

function checkFunction(walk: Walk, call: Call): void {
  if (!plainOperator.test(call.function) && !walk.names.functions.has(call.function)) {
    throw new InvalidExpression(`there is no function "${call.function}"`)
  }
  if (call.function !== "matches") return
  const kind = call.args.at(-1)?.exprKind
  const constant = kind?.case === "constExpr" ? kind.value.constantKind : undefined
  if (constant?.case !== "stringValue") {
    throw new InvalidExpression("the pattern of matches() must be a constant")
  }
  walk.patterns.push(constant.value)
}

// A tripped meter then fails the operand, and the call itself is never made.
function meterFirstOperand(call: Call): void {
  const [first, ...others] = call.args
  if (call.target !== undefined) call.target = metered(call.target)
  else if (first !== undefined) call.args = [metered(first), ...others]
}

// The parser makes the node, so that nothing here depends on how a node is built.
function metered(expr: Expr): Expr {
  const wrapper = parse(`${meterName}(true)`).expr
  if (wrapper.exprKind.case === "callExpr") wrapper.exprKind.value.args = [expr]
  return wrapper
}
