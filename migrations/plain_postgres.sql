-- What Supabase brings and plain Postgres lacks: API roles, and the helpers that read a request's verified claims.
-- Run by a superuser, once, in the database that will hold Chartloom; `chartloom migrate` does so where `auth` is missing.
-- Supabase's own tooling skips this file: its name is not <14 digits>_name.sql.

do $$
begin
    if not exists (select from pg_roles where rolname = 'anon') then
        create role anon nologin noinherit;
    end if;
    if not exists (select from pg_roles where rolname = 'authenticated') then
        create role authenticated nologin noinherit;
    end if;
    if not exists (select from pg_roles where rolname = 'service_role') then
        create role service_role nologin noinherit bypassrls;
    end if;
    if not exists (select from pg_roles where rolname = 'authenticator') then
        create role authenticator noinherit;
    end if;
end
$$;

grant anon, authenticated, service_role to authenticator;

-- Supabase's `postgres` owns the schema without being a superuser; here the database's owner stands in for it.
do $$
declare
    v_owner text := (select pg_get_userbyid(datdba) from pg_database where datname = current_database());
begin
    -- With the admin option, as Supabase's has it: the owner lets the console's role become `authenticated`.
    execute format('grant anon, authenticated, service_role to %I with admin option', v_owner);
    execute format('create schema if not exists auth authorization %I', v_owner);
    execute format('create schema if not exists storage authorization %I', v_owner);
    execute format('alter schema public owner to %I', v_owner);
end
$$;

-- As on Supabase the planner can inline these, which a search_path of their own would forbid; such a body needs none.
create or replace function auth.jwt() returns jsonb
language sql stable
return coalesce(
    nullif(current_setting('request.jwt.claim', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')
)::jsonb;

create or replace function auth.uid() returns uuid
language sql stable
return (auth.jwt() ->> 'sub')::uuid;

create or replace function auth.role() returns text
language sql stable
return auth.jwt() ->> 'role';

grant usage on schema auth to anon, authenticated, service_role;
grant execute on function auth.jwt(), auth.uid(), auth.role() to anon, authenticated, service_role;

-- Storage's own tables, as far as policies see them: a row an object. The bytes are wherever STORAGE_URL says.
create table if not exists storage.buckets (
    id text primary key,
    name text not null unique,
    public boolean not null default false
);
create table if not exists storage.objects (
    id uuid primary key default gen_random_uuid(),
    bucket_id text references storage.buckets (id),
    name text,
    owner_id text,
    created_at timestamptz default now(),
    unique (bucket_id, name)
);
alter table storage.buckets enable row level security;
alter table storage.objects enable row level security;
grant usage on schema storage to anon, authenticated, service_role;
grant all on storage.buckets, storage.objects to anon, authenticated, service_role;

do $$
declare
    v_owner text := (select pg_get_userbyid(datdba) from pg_database where datname = current_database());
begin
    execute format('alter table storage.buckets owner to %I', v_owner);
    execute format('alter table storage.objects owner to %I', v_owner);
end
$$;
