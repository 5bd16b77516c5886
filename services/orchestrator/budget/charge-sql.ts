/**
 * The part of a statement that charges workspaces for a day, where they have a budget: a look at each
 * one's key otherwise. `source` has `workspace_id`, in `calls` how many it admits, and in `tokens` and
 * `cost_micros` what others have used up. It is carried out behind all that others wait for, and fails
 * where a call is admitted that has no room.
 *
 * With `reservations`, `source` has also what is held for the call that it admits, and the step of the
 * call for which nothing is held any more, with how much that was. It was held on the day on which
 * that call was admitted, unless nothing was counted in the workspace then.
 */
export function chargeSql(source: string, reservations: boolean): string {
  return `charged as (
    insert into workspace_usage as u (workspace_id, day, calls, tokens, cost_micros
      ${reservations ? ", reserved_tokens, reserved_cost_micros, asked_tokens, asked_cost_micros" : ""})
    ${reservations ? reservedOf(source) : usedOf(source)}
    on conflict (workspace_id, day) do update set calls = u.calls + excluded.calls,
      tokens = u.tokens + excluded.tokens, cost_micros = u.cost_micros + excluded.cost_micros,
      asked_tokens = excluded.asked_tokens, asked_cost_micros = excluded.asked_cost_micros
      ${reservations ? heldNow : ""}
  )`
}

const today = "(now() at time zone 'UTC')::date"

function usedOf(source: string): string {
  return `select s.workspace_id, ${today}, coalesce(sum(s.calls), 0),
      coalesce(sum(s.tokens), 0), coalesce(sum(s.cost_micros), 0)
    from ${source} s join workspace_budgets b on b.workspace_id = s.workspace_id
    where (s.calls > 0 or s.tokens > 0 or s.cost_micros > 0)
      and (b.max_calls > 0 or b.max_tokens > 0 or b.max_cost_micros > 0)
    group by s.workspace_id order by s.workspace_id`
}

function reservedOf(source: string): string {
  return `select s.workspace_id, e.day, sum(e.calls), sum(e.tokens), sum(e.cost_micros),
      sum(e.asked_tokens - e.freed_tokens), sum(e.asked_cost - e.freed_cost),
      sum(e.asked_tokens), sum(e.asked_cost)
    from ${source} s join workspace_budgets b on b.workspace_id = s.workspace_id
    cross join lateral (
      select ${today} as day, coalesce(s.calls, 0) as calls, coalesce(s.tokens, 0) as tokens,
        coalesce(s.cost_micros, 0) as cost_micros, coalesce(s.reserve_tokens, 0) as asked_tokens,
        coalesce(s.reserve_cost, 0) as asked_cost, 0 as freed_tokens, 0 as freed_cost
      where s.calls > 0 or s.tokens > 0 or s.cost_micros > 0
      union all
      select (t.start_time at time zone 'UTC')::date, 0, 0, 0, 0, 0, s.release_tokens, s.release_cost
      from tool_calls t
      where t.workspace_id = s.workspace_id and t.run_id = s.run_id
        and t.step_index = s.release_step and t.start_time >= b.count_time
    ) e
    where b.max_calls > 0 or b.max_tokens > 0 or b.max_cost_micros > 0
    group by s.workspace_id, e.day order by s.workspace_id, e.day`
}

/** Never less than nothing: what was held under an earlier budget was forgotten with it. */
const heldNow = `, reserved_tokens = greatest(0, u.reserved_tokens + excluded.reserved_tokens),
      reserved_cost_micros = greatest(0, u.reserved_cost_micros + excluded.reserved_cost_micros)`
