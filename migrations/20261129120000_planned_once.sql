-- What each job reads and keeps is found by an index from the first document on. A plan that was made while its tables were
-- as good as empty scans them, and is kept: in the first minute of a burst, until autovacuum has looked at them, each pass
-- read all results of all others.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

alter function chartloom.read_ocr_input(bigint, uuid)
    set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off;
alter function chartloom.begin_reading(bigint, uuid, jsonb, integer)
    set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off;
alter function chartloom.missing_pages(bigint, uuid, integer)
    set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off;
alter function chartloom.save_ocr_pages(bigint, uuid, jsonb)
    set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off;
alter function chartloom.read_ai_input(bigint, uuid, boolean, text)
    set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off;
alter function chartloom.save_ai_checkpoint(bigint, uuid, text, text, text, jsonb, text, jsonb)
    set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off;
alter function chartloom.read_persist_input(bigint, uuid)
    set plan_cache_mode = 'force_generic_plan' set enable_seqscan = off;
