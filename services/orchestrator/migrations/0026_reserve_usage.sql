-- The most that a call uses up, as JSON, where its tool's version declares it: held in the budget of
-- the workspace's day from when the call is admitted until it is known what became of it.
alter table tool_calls add column max_usage text;

-- `asked_…` is what the statement that wrote the row last has added to what is held.
alter table workspace_usage
  add column reserved_tokens bigint not null default 0,
  add column reserved_cost_micros bigint not null default 0,
  add column asked_tokens bigint not null default 0,
  add column asked_cost_micros bigint not null default 0;
-- Since when the workspace has had a limit: what was admitted before is not held.
alter table workspace_budgets add column count_time timestamptz not null default now();

-- What was used up is always counted. A call is admitted where the most that it uses up is left, or
-- anything, where that is not known.
create or replace function workspace_usage_is_limited() returns trigger language plpgsql as $$
declare
  most workspace_budgets;
  admits boolean := new.calls > case when tg_op = 'UPDATE' then old.calls else 0 end;
  tokens bigint := new.tokens + new.reserved_tokens;
  cost_micros bigint := new.cost_micros + new.reserved_cost_micros;
begin
  select * into most from workspace_budgets where workspace_id = new.workspace_id;
  if admits and (most.max_calls > 0 and new.calls > most.max_calls
      or most.max_tokens > 0 and (tokens > most.max_tokens
        or new.asked_tokens = 0 and tokens >= most.max_tokens)
      or most.max_cost_micros > 0 and (cost_micros > most.max_cost_micros
        or new.asked_cost_micros = 0 and cost_micros >= most.max_cost_micros)) then
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
