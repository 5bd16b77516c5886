/** For what ends at a time that others set, as a token does. */
export const wallClock = () => Date.now()
/** For what ends after a duration, however the wall clock jumps meanwhile. */
export const monotonicClock = () => performance.now()

/** A map whose entries end by themselves, so that what it remembers never outgrows what is in use. */
export interface ExpiringMap<Value> {
  /** The value, while its time lasts. */
  get(key: string): Value | undefined
  /** Remembers a value until a time of the map's clock. */
  set(key: string, value: Value, until: number): void
  readonly size: number
}

/**
 * Creates a map that drops the oldest of its entries as new ones come: those whose time is over,
 * and those above the capacity. A set of single-use ids must have no capacity, since to forget one
 * early is to take it twice; its size is then bounded by how many come in one lifetime.
 *
 * Entries leave in the order in which they came, each step in constant time. So lifetimes should be
 * about the same: one that lasts longer keeps those behind it a little longer than they need.
 */
export function createExpiringMap<Value>(
  clock: typeof wallClock | typeof monotonicClock,
  capacity = Number.POSITIVE_INFINITY,
): ExpiringMap<Value> {
  const entries = new Map<string, { readonly value: Value; readonly until: number }>()
  return {
    get(key) {
      const entry = entries.get(key)
      return entry !== undefined && entry.until > clock() ? entry.value : undefined
    },
    set(key, value, until) {
      entries.delete(key)
      entries.set(key, { value, until })
      const now = clock()
      for (const [oldest, entry] of entries) {
        if (entry.until > now && entries.size <= capacity) break
        entries.delete(oldest)
      }
    },
    get size() {
      return entries.size
    },
  }
}
