-- Threads that requests have named, and who is in their line: the live runs in their order, of which
-- the first one's turn it is. So at most one run of a thread is carried out. The primary key serves
-- GetThread, and whoever joins or leaves the line.
create table threads (
  workspace_id uuid not null,
  thread_id uuid not null,
  line uuid[] not null default '{}',
  run_count bigint not null default 0,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  primary key (workspace_id, thread_id),
  constraint threads_line_limit check (cardinality(line) <= 100)
);
-- Serves ListThreads, the last used first.
create index threads_used_idx on threads (workspace_id, update_time desc, thread_id desc);
alter table threads enable row level security;
alter table threads force row level security;
create policy threads_of_workspace on threads to :app_role
  using (workspace_id = (select runwarden.current_workspace()))
  with check (workspace_id = (select runwarden.current_workspace()));
create policy threads_of_workspaces on threads to :worker_role
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
grant select, insert, update on threads to :app_role, :worker_role;

-- Whether the run takes turns with the others of its thread: true where a request has named it.
alter table runs add column in_line boolean not null default false;

-- Whoever changes a line while it stores runs holds the head of the workspace's journal, so that
-- lines are never waited for in a circle. A run that is stored joins the line of its thread; unless
-- it is the first there it must be queued, and is looked at when its deadline has come.
create function runs_join_line() returns trigger language plpgsql as $$
declare
  line_now uuid[];
begin
  update threads set run_count = run_count + 1, update_time = now(),
      line = case when new.end_time is null then line || new.run_id else line end
    where workspace_id = new.workspace_id and thread_id = new.thread_id
    returning line into line_now;
  if not found then
    raise exception 'thread % is not there', new.thread_id
      using errcode = 'integrity_constraint_violation';
  end if;
  if new.end_time is not null or line_now[1] = new.run_id then
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
create trigger runs_are_lined_up after insert on runs
  for each row when (new.in_line) execute function runs_join_line();

-- A run that ends, however it ends, leaves the line, and whoever comes first then is due at once. A
-- queued run begins only when its turn has come. Who owns the next one already looks by itself.
create function runs_follow_line() returns trigger language plpgsql as $$
declare
  line_then uuid[];
  line_now uuid[];
begin
  select line into line_then from threads
    where workspace_id = new.workspace_id and thread_id = new.thread_id for update;
  if new.end_time is null then
    if line_then[1] is distinct from new.run_id then
      raise exception 'run % of thread % has not ended', line_then[1], new.thread_id
        using errcode = 'check_violation', constraint = 'threads_turn';
    end if;
    return null;
  end if;
  line_now := array_remove(line_then, new.run_id);
  update threads set line = line_now, update_time = now()
    where workspace_id = new.workspace_id and thread_id = new.thread_id;
  if line_now[1] is distinct from line_then[1] then
    update run_claims set due_time = now()
      where workspace_id = new.workspace_id and run_id = line_now[1] and owner is null;
  end if;
  return null;
end $$;
create trigger runs_take_turns after update of state on runs
  for each row when (new.in_line and old.state <> new.state
    and (old.state = 'queued' or new.end_time is not null))
  execute function runs_follow_line();
