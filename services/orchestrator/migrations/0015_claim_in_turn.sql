-- Serves the claim while more is due than one look takes: the longest due of each workspace in turn.
create index run_claims_turn_idx on run_claims (workspace_id, due_time);

comment on column run_claims.crashes is
  'Owners that vanished while they did something about the run where it stands; counted before it.';
