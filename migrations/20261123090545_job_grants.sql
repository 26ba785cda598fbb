-- Who may call what of the job contract.

grant execute on function
chartloom.claim_jobs(text, text[], integer, integer),
chartloom.heartbeat_jobs(text, text, text, bigint[], uuid[], integer, jsonb, real[]),
chartloom.complete_job(bigint, uuid, jsonb, text),
chartloom.complete_jobs(bigint[], uuid[], jsonb[]),
chartloom.fan_out_job(bigint, uuid, text, jsonb, text, jsonb, text),
chartloom.fail_job(bigint, uuid, text, text, boolean),
chartloom.release_job(bigint, uuid, double precision, text, text),
chartloom.fall_asleep(text, text[]),
chartloom.wake_up(text),
chartloom.forget_worker(text, text),
chartloom.follow_ups(text[])
to chartloom_worker;

grant execute on function
chartloom.sweep_expired_leases(integer),
chartloom.promote_due_jobs(integer),
chartloom.wake_for_ready_jobs(),
chartloom.next_deadline(),
chartloom.queue_depths()
to chartloom_sweeper, chartloom_operator;

grant execute on function
chartloom.enqueue_job_v3(text, text, jsonb, integer, timestamptz, text, text, text, integer),
chartloom.enqueue_jobs_v3(text, text, jsonb[], integer, timestamptz, text[], text[], text[], integer),
chartloom.redrive_jobs(bigint[], double precision),
chartloom.cancel_document_jobs(uuid)
to chartloom_operator, service_role;

grant select on chartloom.job_history, chartloom.processing_errors, chartloom.workers, chartloom.job_types,
chartloom.pipeline_steps to chartloom_operator;
create policy operators_read on chartloom.processing_errors for select to chartloom_operator using (true);
create policy operators_read on chartloom.workers for select to chartloom_operator using (true);
create policy operators_read on chartloom.job_types for select to chartloom_operator using (true);
create policy operators_read on chartloom.pipeline_steps for select to chartloom_operator using (true);

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
