-- Changes of many runs are stored by one statement, as the worker of their workspaces. Here is what
-- makes each of its rows cheap, while every guard holds that held before.

-- Room on each page for the next versions of its rows, which then need no new index entries.
alter table runs set (fillfactor = 60);
alter table tool_calls set (fillfactor = 60);
alter table run_claims set (fillfactor = 50);

-- Serves ListRuns by state. Successes are almost all there is: the primary key finds them as fast.
drop index runs_state_idx;
create index runs_state_idx on runs (workspace_id, state, run_id desc) where state <> 'succeeded';
-- Serves ListRuns by thread. No index but the primary key begins with the workspace, so that a plan
-- made while the table was empty finds rows by their key all the same.
drop index runs_thread_idx;
create index runs_thread_idx on runs (thread_id, workspace_id, run_id desc);
-- Serves GetToolCall; lists go by the primary key.
drop index tool_calls_id_key;
create unique index tool_calls_id_key on tool_calls (tool_call_id, workspace_id);

-- A key is made of the primary key's parts, which keeps it unique without an index of its own.
alter table tool_calls drop constraint tool_calls_idempotency_key;
alter table tool_calls add constraint tool_calls_idempotency_key
  check (idempotency_key = run_id::text || '/' || step_index::text);

-- Runs are never deleted, and what belongs to one is inserted by the statement that inserts or
-- updates it: these would ask again, for every row.
alter table verdicts drop constraint verdicts_workspace_id_run_id_fkey;
alter table tool_calls drop constraint tool_calls_workspace_id_run_id_fkey;

-- One row per call, the newest verdict on it, under the key that tool_calls_verdict_fkey asks for.
alter table tool_calls drop constraint tool_calls_verdict_fkey;
alter table verdicts drop constraint verdicts_verdict_key;
alter table verdicts drop constraint verdicts_pkey;
alter table verdicts no force row level security;
alter table tool_calls no force row level security;
delete from verdicts v using verdicts newer
  where newer.workspace_id = v.workspace_id and newer.run_id = v.run_id
    and newer.step_index = v.step_index and newer.create_time > v.create_time;
alter table verdicts add constraint verdicts_pkey
  primary key (workspace_id, run_id, step_index, digest, verdict);
-- A verdict, once stored, is one that moderation gave on exactly these arguments.
alter table tool_calls add constraint tool_calls_verdict_fkey
  foreign key (workspace_id, run_id, step_index, arguments_digest, verdict)
  references verdicts (workspace_id, run_id, step_index, digest, verdict);
alter table verdicts force row level security;
alter table tool_calls force row level security;

-- Planned arguments without references are the arguments: they are stored once.
alter table tool_calls add column is_literal boolean not null default false;
alter table tool_calls drop constraint tool_calls_verdict_check;
-- Nothing executes, or has executed, that moderation has not let through.
alter table tool_calls add constraint tool_calls_verdict_check check (
  state not in ('executing', 'outcome_unknown', 'succeeded', 'failed')
  or ((arguments is not null or is_literal) and arguments_digest is not null
    and verdict is not null and verdict in ('allowed', 'flagged')));

-- The workspaces of the transaction, looked up once per statement and not once per row, and in a form
-- that no index serves: a row is found by its key and then held to this.
alter policy runs_of_workspaces on runs
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
alter policy verdicts_of_workspaces on verdicts
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
alter policy approvals_of_workspaces on approvals
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
alter policy tool_calls_of_workspaces on tool_calls
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);

-- Answers are stored with the changes that they tell of.
create policy requests_of_workspaces on requests to :worker_role
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
grant select, insert on requests to :worker_role;
