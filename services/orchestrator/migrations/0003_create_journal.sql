-- The journal: what happened to the runs of a workspace, one row per stored change, in the order of
-- their commits. It is the history of each run, the chain that shows a later alteration, and the
-- queue from which telemetry is told. The primary key serves the delivery to telemetry and the check
-- of the chain: positions of a workspace are gapless, because they are given under the lock of its head.
--
-- `entries` is a ListRunEventsResponse without sequences and times: they are the row's own.
-- hash = sha256(hash of the position before || runwarden.journal_frame(the row)).
create table journal (
  workspace_id uuid not null,
  position bigint not null check (position > 0),
  run_id uuid not null,
  first_sequence bigint not null check (first_sequence > 0),
  entry_count integer not null check (entry_count > 0),
  entries bytea not null,
  create_time timestamptz not null,
  hash bytea not null check (octet_length(hash) = 32),
  primary key (workspace_id, position)
);
-- Serves ListRunEvents and WatchRun; and no two rows begin at the same place of a history.
create unique index journal_run_key on journal (workspace_id, run_id, first_sequence);
alter table journal enable row level security;
alter table journal force row level security;
create policy journal_of_workspace on journal to :app_role
  using (workspace_id = (select runwarden.current_workspace()))
  with check (workspace_id = (select runwarden.current_workspace()));
create policy journal_of_workspaces on journal to :worker_role
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
grant select on journal to :app_role;
grant select, insert on journal to :worker_role;

-- The end of each workspace's chain, and how far telemetry has been told. A row is made before the
-- workspace's first run is stored, so that there always is one to lock.
create table journal_heads (
  workspace_id uuid primary key,
  position bigint not null default 0,
  hash bytea not null default decode(repeat('00', 32), 'hex') check (octet_length(hash) = 32),
  delivered_position bigint not null default 0,
  check (delivered_position between 0 and position)
) with (fillfactor = 25);
alter table journal_heads enable row level security;
alter table journal_heads force row level security;
create policy journal_heads_of_workspace on journal_heads to :app_role
  using (workspace_id = (select runwarden.current_workspace()))
  with check (workspace_id = (select runwarden.current_workspace()));
create policy journal_heads_of_workspaces on journal_heads to :worker_role
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
grant select on journal_heads to :app_role;
grant select, insert, update on journal_heads to :worker_role;

-- Workspaces whose journal is longer than what telemetry knows, and who delivers it: ids and times
-- only, so that a worker may look for work in all of them. A row is there whenever the head is ahead
-- of `delivered_position`: who appends makes it under the lock of the head, and who delivers takes it
-- away under the same lock, only where nothing was appended since.
create table journal_due (
  workspace_id uuid primary key,
  owner uuid,
  free_time timestamptz not null default now(),
  attempts integer not null default 0
);
-- Serves the look for work, the longest due first.
create index journal_due_free_idx on journal_due (free_time);
alter table journal_due enable row level security;
alter table journal_due force row level security;
create policy journal_due_of_worker on journal_due to :worker_role using (true) with check (true);
grant select, insert, update, delete on journal_due to :worker_role;

-- What the hash of a row covers beside the hash before it: every member has a fixed length but the
-- last, so that no two rows have the same frame.
create function runwarden.journal_frame(workspace_id uuid, "position" bigint, run_id uuid,
  first_sequence bigint, entry_count integer, create_time timestamptz, entries bytea)
  returns bytea language sql stable parallel safe
  return uuid_send(workspace_id) || int8send("position") || uuid_send(run_id)
    || int8send(first_sequence) || int4send(entry_count)
    || int8send((extract(epoch from create_time) * 1000000)::bigint) || entries;

create function runwarden.journal_link(hash bytea, head bytea, frame bytea)
  returns bytea language plpgsql immutable parallel safe as $$
begin
  return sha256(coalesce(hash, head) || frame);
end $$;
-- The hash of the last of several rows that follow a head, in order.
create aggregate runwarden.journal_chain(head bytea, frame bytea) (
  sfunc = runwarden.journal_link, stype = bytea, parallel = safe
);

-- Ends the statement, and the transaction with it: what it found cannot be.
create function runwarden.violated(what text) returns integer language plpgsql as $$
begin
  raise exception 'invariant violated: %', what using errcode = 'integrity_constraint_violation';
end $$;

-- Histories that are there already, in the order in which they were written. What had not left the
-- outbox for telemetry by then is not sent: it was about metrics only. Who owns a table sees its rows
-- where row-level security is not forced, as it is again at the end.
alter table runs no force row level security;
alter table run_events no force row level security;
alter table journal no force row level security;
alter table journal_heads no force row level security;
alter table outbox no force row level security;
alter table outbox_due no force row level security;
do $$
declare
  workspace uuid;
  event record;
  place bigint;
  link bytea;
  size integer;
  content bytea;
begin
  for workspace in select distinct workspace_id from runs loop
    place := 0;
    link := decode(repeat('00', 32), 'hex');
    for event in select * from run_events where workspace_id = workspace
      order by create_time, run_id, sequence
    loop
      place := place + 1;
      -- The tag and the length, as base-128 digits, in front of the one event.
      size := octet_length(event.payload);
      content := '\x0a';
      while size > 127 loop
        content := content || set_byte('\x00', 0, (size & 127) | 128);
        size := size >> 7;
      end loop;
      content := content || set_byte('\x00', 0, size) || event.payload;
      link := sha256(link || runwarden.journal_frame(workspace, place, event.run_id,
        event.sequence, 1, event.create_time, content));
      insert into journal values (workspace, place, event.run_id, event.sequence, 1, content,
        event.create_time, link);
    end loop;
    insert into journal_heads values (workspace, place, link, place);
  end loop;
end $$;
drop table run_events;
delete from outbox_due;
delete from outbox;
alter table runs force row level security;
alter table journal force row level security;
alter table journal_heads force row level security;
alter table outbox force row level security;
alter table outbox_due force row level security;
