-- One row per run instead of one per event: what counts of it in columns, and its events as bytes,
-- from which everything in the columns can be computed again. An event outside runs has a row of its
-- own, under its own id.
create table run_records (
  workspace_id uuid not null,
  record_id uuid not null,
  -- Times of the earliest and the latest event, in microseconds of the epoch.
  first_micros bigint not null,
  last_micros bigint not null,
  -- The run's latest state: when it was reached, and how long after the start; null before any.
  state_micros bigint,
  millis bigint,
  -- One more with every change: what was read is replaced only by what follows it.
  revision integer not null,
  -- How many of its calls have an unknown outcome.
  unknown_calls integer not null,
  state text,
  reason text,
  -- How many calls are in which state, and how many verdicts there are of each kind, as JSON; empty
  -- where there are none.
  tally text not null,
  -- Every event once; the form is described in record-codec.ts.
  entries bytea not null,
  primary key (workspace_id, record_id)
);
comment on table run_records is 'What is known of every run: its figures, and the events they are of';
-- Compressing costs more than what it saves of rows that stay for a month.
alter table run_records alter column entries set storage external;

-- What was recorded before. Not even the owner reads or writes a table of tenants whose row-level
-- security is forced.
alter table events no force row level security;
alter table run_states no force row level security;
alter table tool_call_states no force row level security;
create function pg_temp.varint(value bigint) returns bytea language plpgsql immutable as $$
declare
  bytes bytea := ''; rest bigint := value;
begin
  while rest > 127 loop
    bytes := bytes || set_byte('\x00'::bytea, 0, (rest & 127)::int | 128);
    rest := rest >> 7;
  end loop;
  return bytes || set_byte('\x00'::bytea, 0, rest::int);
end $$;

insert into run_records (workspace_id, record_id, first_micros, last_micros, state_micros, millis,
  revision, unknown_calls, state, reason, tally, entries)
with event as (
  select workspace_id, coalesce(run_id, event_id) as record_id, run_id is not null as is_run,
    event_id, kind, step_index, approval_id, name, state, reason, millis, is_unavailable,
    (extract(epoch from occur_time) * 1000000)::bigint as micros,
    row_number() over (partition by workspace_id, coalesce(run_id, event_id) order by event_id) as n,
    min((extract(epoch from occur_time) * 1000000)::bigint)
      over (partition by workspace_id, coalesce(run_id, event_id)) as earliest
  from events where occur_time >= 'epoch' and occur_time < '2200-01-01 00:00:00+00'
), packed as (
  select workspace_id, record_id, is_run, min(micros) as first_micros, max(micros) as last_micros,
    pg_temp.varint(count(*)) || pg_temp.varint(min(micros)) ||
    string_agg(uuid_send(event_id)
      || set_byte('\x00'::bytea, 0,
        array_position('{run,tool_call,moderation,approval,resource}'::text[], kind) - 1
          | case when is_unavailable then 128 else 0 end)
      || pg_temp.varint(micros - earliest) || pg_temp.varint(coalesce(step_index, 0))
      || pg_temp.varint(greatest(millis, 0)) || pg_temp.varint(n * 4 - 4) || pg_temp.varint(n * 4 - 3)
      || pg_temp.varint(n * 4 - 2) || pg_temp.varint(n * 4 - 1), '' order by n)
    || string_agg((
      select string_agg(pg_temp.varint(octet_length(convert_to(part, 'UTF8')))
        || convert_to(part, 'UTF8'), '' order by place)
      from unnest(array[state, reason,
        case when kind = 'resource' then split_part(name, ' ', 1) else name end,
        case when kind = 'resource' then substring(name from position(' ' in name) + 1)
          else coalesce(approval_id::text, '') end]) with ordinality as text (part, place)),
      '' order by n) as entries
  from event group by workspace_id, record_id, is_run
), calls as (
  select workspace_id, run_id as record_id, json_object_agg(state, count) as counts,
    coalesce(sum(count) filter (where state = 'outcome_unknown'), 0) as unknown
  from (select workspace_id, run_id, state, count(*) as count from tool_call_states
    group by workspace_id, run_id, state) as counted
  group by workspace_id, run_id
), verdicts as (
  select workspace_id, record_id, json_object_agg(verdict, count) as counts
  from (select workspace_id, record_id,
      case when is_unavailable then 'unavailable' else state end as verdict, count(*) as count
    from event where kind = 'moderation' group by 1, 2, 3) as counted
  group by workspace_id, record_id
)
select p.workspace_id, p.record_id, p.first_micros, p.last_micros,
  (extract(epoch from r.occur_time) * 1000000)::bigint, r.millis, 1, coalesce(c.unknown, 0),
  r.state, r.reason,
  case when c.counts is null and v.counts is null then '' else
    '[' || coalesce(c.counts::text, '{}') || ',' || coalesce(v.counts::text, '{}') || ']' end,
  p.entries
from packed p
left join run_states r on p.is_run and r.workspace_id = p.workspace_id and r.run_id = p.record_id
left join calls c on p.is_run and c.workspace_id = p.workspace_id and c.record_id = p.record_id
left join verdicts v on v.workspace_id = p.workspace_id and v.record_id = p.record_id;

drop table events, run_states, tool_call_states;

-- The array is made once per statement, not once per row.
alter table run_records enable row level security;
alter table run_records force row level security;
create policy run_records_of_workspace on run_records to :app_role
  using (workspace_id = (select runwarden.current_workspace()))
  with check (workspace_id = (select runwarden.current_workspace()));
create policy run_records_of_workspaces on run_records to :worker_role
  using (workspace_id = any ((select runwarden.current_workspaces())::uuid[]))
  with check (workspace_id = any ((select runwarden.current_workspaces())::uuid[]));
grant select, delete on run_records to :app_role;
grant select, insert, update on run_records to :worker_role;

-- With a condition that all rows meet and only these queries state, so that a statement that looks
-- for a key can be planned with the primary key alone, also while nothing is known of the table.
create index run_records_time_idx on run_records (workspace_id, last_micros) where last_micros >= 0;
comment on index run_records_time_idx is 'Runs of a window, for metrics; those past retention';
create index run_records_unknown_idx on run_records (workspace_id) where unknown_calls > 0;
comment on index run_records_unknown_idx is 'Open unknown outcomes, whenever they became so';
create index run_records_denied_idx on run_records (workspace_id, state_micros)
  where state = 'failed' and reason = 'policy_denied';
comment on index run_records_denied_idx is 'Denials of the windows before, which say what is usual';

-- Approvals are taken in for many workspaces at once, and leave with the runs.
create policy approval_states_of_workspaces on approval_states to :worker_role
  using (workspace_id = any ((select runwarden.current_workspaces())::uuid[]))
  with check (workspace_id = any ((select runwarden.current_workspaces())::uuid[]));
revoke insert, update on approval_states from :app_role;
grant delete on approval_states to :app_role;
grant select, insert, update on approval_states to :worker_role;

-- The timer also comes back for what is past retention, later than it would for alerts.
comment on table alert_evaluations_due is 'When each workspace is to be looked at next';
grant update on alert_evaluations_due to :app_role;
grant insert on alert_evaluations_due to :worker_role;
