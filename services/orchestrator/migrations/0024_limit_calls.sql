-- How long a call may take from when it was admitted; null for as long as its run may.
alter table tool_calls add column timeout_ms bigint check (timeout_ms > 0);
