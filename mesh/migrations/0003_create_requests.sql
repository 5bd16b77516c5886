-- The answer that was given to a request_id, stored in the transaction of its effect. The primary
-- key makes the second of two equal requests fail and serves the look-up of the first one's answer.
create table requests (
  workspace_id uuid not null,
  request_id uuid not null,
  method text not null,
  request_sha256 text not null,
  response bytea not null,
  create_time timestamptz not null default now(),
  constraint requests_pkey primary key (workspace_id, request_id)
);
alter table requests enable row level security;
alter table requests force row level security;
create policy requests_of_workspace on requests to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert on requests to :app_role;
