-- Answers are kept for as long as somebody may reasonably ask again. This index serves the look for a
-- workspace's oldest, which are deleted in small numbers while new ones are stored.
create index requests_by_age on requests (workspace_id, create_time);
grant delete on requests to :app_role;
