-- The shop of a workspace: what it sells, who buys, what was bought and paid. Money is what the
-- shop's own books say, binary floating point: 17.98999999999998 is an amount there, and must stay it.

create table products (
  workspace_id uuid not null,
  product_id text not null,
  name text not null,
  primary key (workspace_id, product_id)
);
comment on table products is 'Types of products; the key serves get_product_details, the rest of the list is short';

-- The items of a product: each a choice of options with a price.
create table variants (
  workspace_id uuid not null,
  item_id text not null,
  product_id text not null,
  options jsonb not null,
  is_available boolean not null,
  price double precision not null check (price >= 0),
  primary key (workspace_id, product_id, item_id),
  foreign key (workspace_id, product_id) references products (workspace_id, product_id)
);
comment on table variants is 'What can be ordered of a product; the key serves the choice of a new item of the same product';

create table users (
  workspace_id uuid not null,
  user_id text not null,
  first_name text not null,
  last_name text not null,
  email text not null,
  address jsonb not null,
  primary key (workspace_id, user_id)
);
comment on table users is 'Customers and where they live';

create unique index users_by_email on users (workspace_id, email);
comment on index users_by_email is 'find_user_id_by_email';

create index users_by_name on users (workspace_id, lower(last_name), lower(first_name));
comment on index users_by_name is 'find_user_id_by_name_zip';

create table payment_methods (
  workspace_id uuid not null,
  user_id text not null,
  payment_method_id text not null,
  source text not null check (source in ('gift_card', 'credit_card', 'paypal')),
  -- What is left on a gift card.
  balance double precision check ((balance is not null) = (source = 'gift_card') and balance >= 0),
  brand text,
  last_four text,
  primary key (workspace_id, user_id, payment_method_id),
  foreign key (workspace_id, user_id) references users (workspace_id, user_id)
);
comment on table payment_methods is 'How a customer pays';

create table orders (
  workspace_id uuid not null,
  order_id text not null,
  user_id text not null,
  -- Its place among the customer's orders.
  position integer not null,
  address jsonb not null,
  fulfillments jsonb not null,
  status text not null,
  cancel_reason text,
  return_items text[],
  return_payment_method_id text,
  exchange_items text[],
  exchange_new_items text[],
  exchange_payment_method_id text,
  exchange_price_difference double precision,
  primary key (workspace_id, order_id),
  foreign key (workspace_id, user_id) references users (workspace_id, user_id)
);
comment on table orders is 'Orders; every change of one locks its row first';

create index orders_by_user on orders (workspace_id, user_id, position);
comment on index orders_by_user is 'The orders of get_user_details';

-- What was ordered, as it was then.
create table order_items (
  workspace_id uuid not null,
  order_id text not null,
  position integer not null,
  name text not null,
  product_id text not null,
  item_id text not null,
  price double precision not null,
  options jsonb not null,
  primary key (workspace_id, order_id, position),
  foreign key (workspace_id, order_id) references orders (workspace_id, order_id)
);
comment on table order_items is 'The items of an order, in their order';

create table payments (
  workspace_id uuid not null,
  order_id text not null,
  position integer not null,
  transaction_type text not null check (transaction_type in ('payment', 'refund')),
  amount double precision not null check (amount >= 0),
  payment_method_id text not null,
  primary key (workspace_id, order_id, position),
  foreign key (workspace_id, order_id) references orders (workspace_id, order_id)
);
comment on table payments is 'What was paid and paid back for an order, in its order; rows are only added';

create table handovers (
  workspace_id uuid not null,
  handover_id uuid not null default gen_random_uuid(),
  summary text not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, handover_id)
);
comment on table handovers is 'Customers who wait for a person';

-- What each call that writes was answered.
create table keyed_calls (
  workspace_id uuid not null,
  idempotency_key text not null,
  tool text not null,
  arguments_digest text not null,
  -- An encoded ExecuteToolResponse; absent only within the transaction of the effect.
  response bytea,
  primary key (workspace_id, idempotency_key)
);
comment on table keyed_calls is
  'One answer per idempotency key, written in the transaction of the effect; read on repeats and by GetOutcome';

do $$
declare
  name text;
begin
  foreach name in array array['products', 'variants', 'users', 'payment_methods', 'orders',
    'order_items', 'payments', 'handovers', 'keyed_calls']
  loop
    execute format('alter table %I enable row level security', name);
    execute format('alter table %I force row level security', name);
    execute format('create policy %I on %I to :app_role
      using (workspace_id = runwarden.current_workspace())
      with check (workspace_id = runwarden.current_workspace())', name || '_of_workspace', name);
    execute format('grant select, insert, update on %I to :app_role', name);
  end loop;
end $$;

-- The records that the tools answer with, each row's as one document.

create view product_records with (security_invoker = true) as
select p.workspace_id, p.product_id as id, jsonb_build_object(
  'product_id', p.product_id,
  'name', p.name,
  'variants', (
    select coalesce(jsonb_object_agg(v.item_id, jsonb_build_object(
      'item_id', v.item_id, 'options', v.options, 'available', v.is_available, 'price', v.price
    )), '{}')
    from variants v where v.workspace_id = p.workspace_id and v.product_id = p.product_id
  )) as record
from products p;

create view user_records with (security_invoker = true) as
select u.workspace_id, u.user_id as id, jsonb_build_object(
  'name', jsonb_build_object('first_name', u.first_name, 'last_name', u.last_name),
  'address', u.address,
  'email', u.email,
  'payment_methods', (
    select coalesce(jsonb_object_agg(m.payment_method_id, jsonb_strip_nulls(jsonb_build_object(
      'id', m.payment_method_id, 'source', m.source, 'balance', m.balance, 'brand', m.brand,
      'last_four', m.last_four
    ))), '{}')
    from payment_methods m where m.workspace_id = u.workspace_id and m.user_id = u.user_id
  ),
  'orders', (
    select coalesce(jsonb_agg(o.order_id order by o.position), '[]')
    from orders o where o.workspace_id = u.workspace_id and o.user_id = u.user_id
  )) as record
from users u;

create view order_records with (security_invoker = true) as
select o.workspace_id, o.order_id as id, jsonb_strip_nulls(jsonb_build_object(
  'order_id', o.order_id,
  'user_id', o.user_id,
  'address', o.address,
  'items', (
    select coalesce(jsonb_agg(jsonb_build_object(
      'name', i.name, 'product_id', i.product_id, 'item_id', i.item_id, 'price', i.price,
      'options', i.options
    ) order by i.position), '[]')
    from order_items i where i.workspace_id = o.workspace_id and i.order_id = o.order_id
  ),
  'fulfillments', o.fulfillments,
  'status', o.status,
  'payment_history', (
    select coalesce(jsonb_agg(jsonb_build_object(
      'transaction_type', p.transaction_type, 'amount', p.amount,
      'payment_method_id', p.payment_method_id
    ) order by p.position), '[]')
    from payments p where p.workspace_id = o.workspace_id and p.order_id = o.order_id
  ),
  'cancel_reason', o.cancel_reason,
  'return_items', o.return_items,
  'return_payment_method_id', o.return_payment_method_id,
  'exchange_items', o.exchange_items,
  'exchange_new_items', o.exchange_new_items,
  'exchange_payment_method_id', o.exchange_payment_method_id,
  'exchange_price_difference', o.exchange_price_difference
)) as record
from orders o;

grant select on product_records, user_records, order_records to :app_role;
