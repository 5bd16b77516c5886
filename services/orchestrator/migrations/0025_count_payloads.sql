-- Bytes of the arguments and results of a run's calls, by which it is limited as by the count of its
-- events. Of runs that are there already, what comes from now on.
alter table runs add column payload_bytes bigint not null default 0;
