-- The check that 20261124170000 made wider, now that it holds for every new row. It reads the table while others write.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table public.finding_reviews validate constraint finding_reviews_reason_check;
