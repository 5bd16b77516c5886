-- Whether telemetry has been told that four fifths were used up: whoever tells it of the workspace's
-- journal does, which has an entry of that very moment.
alter table workspace_usage add column is_told boolean not null default false;
