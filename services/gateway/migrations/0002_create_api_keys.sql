-- API keys, without their secrets. The primary key serves the look-up after a claim and the pages
-- of all keys: key ids are UUIDv7, so their order is that of creation.
create table api_keys (
  workspace_id uuid not null,
  key_id uuid not null,
  actor_id uuid not null,
  display_name text not null,
  prefix text not null,
  create_time timestamptz not null default now(),
  expire_time timestamptz,
  revoke_time timestamptz,
  last_use_time timestamptz,
  primary key (workspace_id, key_id),
  constraint api_keys_actor_fkey foreign key (workspace_id, actor_id)
    references actors (workspace_id, actor_id)
);
-- Serves the keys of one actor: listed, and revoked together when its membership ends.
create index api_keys_actor_idx on api_keys (workspace_id, actor_id, key_id);
alter table api_keys enable row level security;
alter table api_keys force row level security;
create policy api_keys_of_workspace on api_keys to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on api_keys to :app_role;

-- Which workspace a secret belongs to: the one look-up that is made before a workspace is known.
-- Ids and the SHA-256 of the secret, no content. The primary key serves that look-up.
create table api_key_claims (
  workspace_id uuid not null,
  key_id uuid not null,
  key_hash bytea not null,
  constraint api_key_claims_pkey primary key (key_hash),
  constraint api_key_claims_key_fkey foreign key (workspace_id, key_id)
    references api_keys (workspace_id, key_id),
  constraint api_key_claims_hash_check check (octet_length(key_hash) = 32)
);
alter table api_key_claims enable row level security;
alter table api_key_claims force row level security;
create policy api_key_claims_of_workspace on api_key_claims to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy api_key_claims_of_worker on api_key_claims to :worker_role using (true);
grant select, insert on api_key_claims to :app_role;
grant select on api_key_claims to :worker_role;
