-- What the calls of a run have used up, as a JSON array of tokens read, tokens written and cost in
-- millionths, so that metrics add it up without a look at the entries; null where nothing was.
alter table run_records add column usage text;
