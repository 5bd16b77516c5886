-- Alerts, each from its firing to its end.
create table alerts (
  workspace_id uuid not null,
  alert_id uuid not null,
  code text not null,
  severity text not null check (severity in ('p1', 'p2')),
  state text not null check (state in ('open', 'acknowledged', 'resolved')),
  threshold_name text not null,
  threshold double precision not null,
  clear_level double precision not null,
  value double precision not null,
  sample bigint not null,
  minimum_sample bigint not null,
  window_seconds bigint not null,
  -- One more with every change of the state; the etag.
  revision bigint not null,
  create_time timestamptz not null,
  update_time timestamptz not null,
  acknowledge_time timestamptz,
  acknowledged_by text,
  resolve_time timestamptz,
  primary key (workspace_id, alert_id)
);
comment on table alerts is 'Alerts; state follows alert.ts';

alter table alerts enable row level security;
alter table alerts force row level security;
create policy alerts_of_workspace on alerts to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on alerts to :app_role;

create unique index alerts_live_idx on alerts (workspace_id, code) where state <> 'resolved';
comment on index alerts_live_idx is
  'At most one alert per code that is not resolved, however many replicas evaluate; evaluation';
create index alerts_state_idx on alerts (workspace_id, state, alert_id desc);
comment on index alerts_state_idx is 'ListAlerts filtered by state, newest first';

-- Which workspaces are to be evaluated, and when next. A row stays while there are recent events or
-- live alerts. No content: any worker may look through it.
create table alert_evaluations_due (
  workspace_id uuid not null,
  due_time timestamptz not null,
  primary key (workspace_id)
);
comment on table alert_evaluations_due is 'When each workspace is to be evaluated next';

alter table alert_evaluations_due enable row level security;
alter table alert_evaluations_due force row level security;
create policy alert_evaluations_due_of_workspace on alert_evaluations_due to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy alert_evaluations_due_of_worker on alert_evaluations_due to :worker_role
  using (true) with check (true);
grant select, insert on alert_evaluations_due to :app_role;
grant select, update, delete on alert_evaluations_due to :worker_role;

create index alert_evaluations_due_time_idx on alert_evaluations_due (due_time);
comment on index alert_evaluations_due_time_idx is 'The timer: what is due, oldest first';
