import type { RankedPassage, RankingLimits } from "../ranking.ts"

/** What keeps the first places of one list from deciding alone; the usual value. */
const softening = 60

/**
 * Joins rankings by reciprocal rank: what stands high in any of them stands high, and higher where
 * several agree. Equal scores are ordered by document and place.
 */
export function fuse(
  rankings: readonly (readonly Omit<RankedPassage, "score">[])[],
  limits: RankingLimits,
): readonly RankedPassage[] {
  const fused = new Map<string, RankedPassage>()
  for (const ranking of rankings) {
    for (const [rank, { documentId, version, ordinal }] of ranking.entries()) {
      const key = `${documentId} ${version} ${ordinal}`
      const score = (fused.get(key)?.score ?? 0) + 1 / (softening + rank + 1)
      fused.set(key, { documentId, version, ordinal, score })
    }
  }
  const taken = new Map<string, number>()
  const sorted = [...fused.entries()].sort(
    ([oneKey, one], [otherKey, other]) => other.score - one.score || (oneKey < otherKey ? -1 : 1),
  )
  return sorted
    .map(([, passage]) => passage)
    .filter(({ documentId }) => {
      const count = (taken.get(documentId) ?? 0) + 1
      taken.set(documentId, count)
      return count <= limits.perDocument
    })
    .slice(0, limits.passages)
}
