-- What a call used up, as its provider reports it: kept with the outcome, so that a repeat is told the
-- same. Null where it reports nothing.
alter table executions add column usage jsonb;
grant update (usage) on executions to :app_role, :worker_role;
