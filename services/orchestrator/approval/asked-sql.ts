/**
 * The part of a statement that asks people: inserts approvals out of the JSON of a parameter, each
 * row of which `askedRow` made, where `condition` holds of it.
 */
export function askSql(parameter: string, condition: string): string {
  return `insert into approvals (workspace_id, approval_id, run_id, step_index, tool_call_id, tool,
      tool_version, definition_digest, risk_class, effect, title, binding, verdict, policy_version,
      matched_rules, requester_id, digest, state, rule_version, rule_id, approver_role,
      distinct_from_requester, quorum, allows_delegation, allows_break_glass, expire_time,
      open_limit)
    select workspace_id, approval_id, run_id, step_index, tool_call_id, tool, tool_version,
      definition_digest, risk_class, effect, title, binding, verdict, policy_version,
      matched_rules, requester_id, digest, 'pending', rule_version, rule_id, approver_role,
      distinct_from_requester, quorum, allows_delegation, allows_break_glass, expire_time,
      open_limit
    from json_to_recordset(${parameter}::json) as a (n integer, workspace_id uuid,
      approval_id uuid, run_id uuid, step_index integer, tool_call_id uuid, tool text,
      tool_version text, definition_digest text, risk_class text, effect text, title text,
      binding text, verdict text, policy_version text, matched_rules text[], requester_id text,
      digest text, rule_version text, rule_id text, approver_role smallint,
      distinct_from_requester boolean, quorum smallint, allows_delegation boolean,
      allows_break_glass boolean, expire_time timestamptz, open_limit integer)
    where ${condition}`
}
