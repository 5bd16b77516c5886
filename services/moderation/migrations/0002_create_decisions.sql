-- Every verdict with its grounds. Never changed and never deleted by the service.
create table decisions (
  workspace_id uuid not null,
  -- UUIDv7, so that the primary key lists newest first.
  decision_id uuid not null,
  subject text not null check (subject in ('run_input', 'tool_arguments', 'tool_result')),
  verdict text not null check (verdict in ('allowed', 'flagged', 'blocked')),
  categories jsonb not null,
  matched_rules jsonb not null,
  policy_version text not null,
  content_digest text not null,
  tool text not null,
  run_id uuid not null,
  step_index bigint,
  latency_micros bigint not null,
  failure text not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, decision_id),
  constraint decisions_failure_blocks check (failure = '' or verdict = 'blocked')
);
comment on table decisions is 'Moderation decisions; the content itself is not kept, only its digest';

alter table decisions enable row level security;
alter table decisions force row level security;
create policy decisions_of_workspace on decisions to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert on decisions to :app_role;

-- ListDecisions of one run, newest first.
create index decisions_run_idx on decisions (workspace_id, run_id, decision_id desc);
comment on index decisions_run_idx is 'ListDecisions filtered by run, newest first';

-- ListDecisions of what was not allowed, newest first; the allowed are most and need no index.
create index decisions_verdict_idx on decisions (workspace_id, verdict, decision_id desc)
  where verdict <> 'allowed';
comment on index decisions_verdict_idx is 'ListDecisions filtered by flagged or blocked, newest first';
