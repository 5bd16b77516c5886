/**
 * What one check may still cost. Every step is paid for before it is made, so the time of a check is
 * bounded, whatever the schema and the value are.
 */

/** Ends a check: it has cost all that it may. */
export class OverBudget extends Error {}

/** A step is a tenth of a microsecond or so: one keyword at one value, or 32 characters. */
export const maxSteps = 400_000
/** To find every fault of a value that has one, as Ajv keeps each of them. */
export const maxStepsToExplain = 30_000

export class SchemaMeter {
  #left = 0

  restart(steps: number): void {
    this.#left = steps
  }

  spend(steps: number): void {
    this.#left -= steps
    if (this.#left < 0) throw new OverBudget()
  }
}
