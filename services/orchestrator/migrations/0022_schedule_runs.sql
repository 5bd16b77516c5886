-- When a run is to begin; null for at once. Until then it is queued and due at that time.
alter table runs add column start_time timestamptz;

-- A run that begins later joins the line of its thread when its time has come, and not before.
create or replace function runs_join_line() returns trigger language plpgsql as $$
declare
  joins boolean := new.end_time is null and new.start_time is null;
  line_now uuid[];
begin
  update threads set run_count = run_count + 1, update_time = now(),
      line = case when joins then line || new.run_id else line end
    where workspace_id = new.workspace_id and thread_id = new.thread_id
    returning line into line_now;
  if not found then
    raise exception 'thread % is not there', new.thread_id
      using errcode = 'integrity_constraint_violation';
  end if;
  if not joins or line_now[1] = new.run_id then
    return null;
  end if;
  if new.state <> 'queued' then
    raise exception 'run % of thread % has not ended', line_now[1], new.thread_id
      using errcode = 'check_violation', constraint = 'threads_turn';
  end if;
  update run_claims set due_time = new.deadline
    where workspace_id = new.workspace_id and run_id = new.run_id;
  return null;
end $$;
