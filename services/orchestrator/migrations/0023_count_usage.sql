-- What the calls of a run used up, as their providers report it: counted with their outcomes.
alter table runs
  add column used_input_tokens bigint not null default 0,
  add column used_output_tokens bigint not null default 0,
  add column used_cost_micros bigint not null default 0;

alter table workspace_budgets
  add column max_tokens bigint not null default 0 check (max_tokens >= 0),
  add column max_cost_micros bigint not null default 0 check (max_cost_micros >= 0);
alter table workspace_usage
  add column tokens bigint not null default 0,
  add column cost_micros bigint not null default 0;

-- What was used up is always counted, and admits nothing more once a limit is reached.
create or replace function workspace_usage_is_limited() returns trigger language plpgsql as $$
declare
  most workspace_budgets;
  admits boolean := new.calls > case when tg_op = 'UPDATE' then old.calls else 0 end;
begin
  select * into most from workspace_budgets where workspace_id = new.workspace_id;
  if admits and (most.max_calls > 0 and new.calls > most.max_calls
      or most.max_tokens > 0 and new.tokens >= most.max_tokens
      or most.max_cost_micros > 0 and new.cost_micros >= most.max_cost_micros) then
    raise exception 'workspace % has used up its budget of the day', new.workspace_id
      using errcode = 'check_violation', constraint = 'workspace_usage_limit';
  end if;
  if new.warn_time is null and (
      most.max_calls > 0 and new.calls * 5 >= most.max_calls * 4
      or most.max_tokens > 0 and new.tokens * 5 >= most.max_tokens * 4
      or most.max_cost_micros > 0 and new.cost_micros * 5 >= most.max_cost_micros * 4) then
    new.warn_time := now();
  end if;
  return new;
end $$;
drop trigger workspace_usage_limit on workspace_usage;
create trigger workspace_usage_limit before insert or update on workspace_usage
  for each row execute function workspace_usage_is_limited();
