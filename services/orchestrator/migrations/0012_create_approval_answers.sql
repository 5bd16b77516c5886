-- The rule of an approval, and the bytes of its question. Approvals from before have no bytes: they
-- can be answered and not be used, so that they are asked anew.
alter table approvals
  add column effect text not null default 'unsafe' check (effect in ('read', 'keyed', 'unsafe')),
  add column binding text,
  add column rule_version text not null default 'default@1',
  add column rule_id text not null default 'default',
  add column quorum smallint not null default 1 check (quorum between 1 and 10),
  add column allows_delegation boolean not null default false,
  add column allows_break_glass boolean not null default false,
  add column approve_count smallint not null default 0,
  add column is_glass_broken boolean not null default false,
  -- What the foreign keys to the answers point with.
  add column counted smallint generated always as (nullif(approve_count, 0)) stored,
  add column glass boolean generated always as (case when is_glass_broken then true end) stored,
  alter column arguments drop not null;
alter table approvals
  alter column effect drop default,
  alter column rule_version drop default,
  alter column rule_id drop default,
  alter column quorum drop default,
  alter column allows_delegation drop default,
  alter column allows_break_glass drop default;
-- The digest is that of the stored question, and nothing is used without one.
alter table approvals add constraint approvals_binding_check check (
  case when binding is null then consume_time is null
    else digest = encode(sha256(convert_to(binding, 'UTF8')), 'hex') end) not valid;
-- A yes is as many yeses as the rule asks for, or a broken glass.
alter table approvals add constraint approvals_enough_check check (
  state <> 'approved' or binding is null or approve_count >= quorum
  or (is_glass_broken and allows_break_glass)) not valid;
-- What approval_answers_rule_fkey points at: an answer is given under the approval's own rule.
alter table approvals add constraint approvals_rule_key unique (workspace_id, approval_id,
  requester_id, distinct_from_requester, approver_role, allows_delegation, allows_break_glass);
grant update (approve_count, is_glass_broken) on approvals to :app_role, :worker_role;

-- What each person said. Answers are added and never change. The primary key serves the reading of
-- an approval.
create table approval_answers (
  workspace_id uuid not null,
  approval_id uuid not null,
  answer_index smallint not null check (answer_index > 0),
  actor_id text not null,
  -- The role by which it counts: the actor's own, or the delegator's.
  role smallint not null,
  answer text not null check (answer in ('approve', 'reject')),
  comment text not null,
  delegation_id uuid,
  delegator_id text,
  break_glass_reason text,
  -- Which yes it is, counted from 1: a chain without gaps, so that n stands for n persons.
  approval_number smallint check (approval_number > 0),
  previous_number smallint
    generated always as (case when approval_number > 1 then approval_number - 1 end) stored,
  breaks_glass boolean
    generated always as (case when break_glass_reason is not null then true end) stored,
  requester_id text not null,
  distinct_from_requester boolean not null,
  approver_role smallint not null,
  allows_delegation boolean not null,
  allows_break_glass boolean not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, approval_id, answer_index),
  constraint approval_answers_rule_fkey
    foreign key (workspace_id, approval_id, requester_id, distinct_from_requester, approver_role,
      allows_delegation, allows_break_glass)
    references approvals (workspace_id, approval_id, requester_id, distinct_from_requester,
      approver_role, allows_delegation, allows_break_glass),
  constraint approval_answers_delegation_fkey
    foreign key (workspace_id, delegation_id, actor_id, delegator_id)
    references delegations (workspace_id, delegation_id, delegate_id, delegator_id),
  -- What approvals_counted_fkey and approvals_glass_fkey point at.
  constraint approval_answers_number_key unique (workspace_id, approval_id, approval_number),
  constraint approval_answers_glass_key unique (workspace_id, approval_id, breaks_glass),
  constraint approval_answers_number_fkey
    foreign key (workspace_id, approval_id, previous_number)
    references approval_answers (workspace_id, approval_id, approval_number),
  constraint approval_answers_number_check check (
    (approval_number is not null) = (answer = 'approve' and break_glass_reason is null)),
  constraint approval_answers_role_check check (role >= approver_role),
  constraint approval_answers_requester_check check (
    not distinct_from_requester
    or (actor_id <> requester_id and delegator_id is distinct from requester_id)),
  constraint approval_answers_delegation_check check (
    (delegation_id is null) = (delegator_id is null)
    and (delegation_id is null or allows_delegation)),
  -- 4 is the role of an admin.
  constraint approval_answers_glass_check check (
    break_glass_reason is null
    or (allows_break_glass and answer = 'approve' and role >= 4 and delegation_id is null
      and char_length(break_glass_reason) >= 10))
);
-- Each person once: neither the one who answers nor the one answered for counts twice.
create unique index approval_answers_actor_key
  on approval_answers (workspace_id, approval_id, actor_id) where break_glass_reason is null;
create unique index approval_answers_principal_key
  on approval_answers (workspace_id, approval_id, coalesce(delegator_id, actor_id))
  where break_glass_reason is null;
alter table approval_answers enable row level security;
alter table approval_answers force row level security;
create policy approval_answers_of_workspace on approval_answers to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy approval_answers_of_workspaces on approval_answers to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert on approval_answers to :app_role, :worker_role;

-- As many yeses as an approval says it has, there are; and where it says the glass is broken, it is.
alter table approvals
  add constraint approvals_counted_fkey foreign key (workspace_id, approval_id, counted)
    references approval_answers (workspace_id, approval_id, approval_number),
  add constraint approvals_glass_fkey foreign key (workspace_id, approval_id, glass)
    references approval_answers (workspace_id, approval_id, breaks_glass);
