-- Written by larder-datastore. Running it again does no harm.
create table if not exists larder_outbox (
    id bigint generated always as identity primary key,
    xid xid8 not null default pg_current_xact_id(),
    rule text not null,
    key jsonb not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index if not exists larder_outbox_xid on larder_outbox (xid);
create table if not exists larder_node (address text primary key, flushed bool not null default false);
create table if not exists larder_meta (store text primary key, leader text, until bigint);
create or replace function larder_conference_insert_ed6b0778() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', jsonb_build_array(new."id")
        union all select 'conference', jsonb_build_array(new."id")
        union all select 'conference.by_city', jsonb_build_array(new."city")
        union all select 'conference.by_city_and_month', jsonb_build_array(new."city", new."month")
        union all select 'conference.open', jsonb_build_array(new."city");
    return new;
end $$;
drop trigger if exists larder_conference_insert_ed6b0778 on "conference";
create trigger larder_conference_insert_ed6b0778 after insert on "conference" for each row
    execute function larder_conference_insert_ed6b0778();
create or replace function larder_conference_update_caf91b61() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', jsonb_build_array(old."id")
        union all select 'conference_page', jsonb_build_array(new."id") where old."id" <> new."id"
        union all select 'conference', jsonb_build_array(old."id")
        union all select 'conference', jsonb_build_array(new."id") where old."id" <> new."id"
        union all select 'conference.by_city', jsonb_build_array(old."city") where old."city" is distinct from new."city" or old."name" is distinct from new."name" or old."id" is distinct from new."id"
        union all select 'conference.by_city', jsonb_build_array(new."city") where old."city" <> new."city"
        union all select 'conference.by_city_and_month', jsonb_build_array(old."city", old."month") where old."city" is distinct from new."city" or old."month" is distinct from new."month" or old."name" is distinct from new."name" or old."id" is distinct from new."id"
        union all select 'conference.by_city_and_month', jsonb_build_array(new."city", new."month") where old."city" <> new."city" or old."month" <> new."month"
        union all select 'conference.open', jsonb_build_array(old."city") where old."city" is distinct from new."city" or old."name" is distinct from new."name" or old."id" is distinct from new."id" or (select (seats_available > 0) from (select old.*) as row_) is distinct from (select (seats_available > 0) from (select new.*) as row_)
        union all select 'conference.open', jsonb_build_array(new."city") where old."city" <> new."city";
    return new;
end $$;
drop trigger if exists larder_conference_update_caf91b61 on "conference";
create trigger larder_conference_update_caf91b61 after update on "conference" for each row
    when (old.* is distinct from new.*)
    execute function larder_conference_update_caf91b61();
create or replace function larder_conference_delete_95c41e92() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', jsonb_build_array(old."id")
        union all select 'conference', jsonb_build_array(old."id")
        union all select 'conference.by_city', jsonb_build_array(old."city")
        union all select 'conference.by_city_and_month', jsonb_build_array(old."city", old."month")
        union all select 'conference.open', jsonb_build_array(old."city");
    return old;
end $$;
drop trigger if exists larder_conference_delete_95c41e92 on "conference";
create trigger larder_conference_delete_95c41e92 after delete on "conference" for each row
    execute function larder_conference_delete_95c41e92();
create or replace function larder_conference_truncate_58c07e98() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key) values ('*', '[]');
    return null;
end $$;
drop trigger if exists larder_conference_truncate_58c07e98 on "conference";
create trigger larder_conference_truncate_58c07e98 after truncate on "conference"
    execute function larder_conference_truncate_58c07e98();
create or replace function larder_registration_insert_e0087b6b() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'registration', jsonb_build_array(new."id")
        union all select 'registration.of_profile', jsonb_build_array(new."profile");
    return new;
end $$;
drop trigger if exists larder_registration_insert_e0087b6b on "registration";
create trigger larder_registration_insert_e0087b6b after insert on "registration" for each row
    execute function larder_registration_insert_e0087b6b();
create or replace function larder_registration_update_0191fdae() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'registration', jsonb_build_array(old."id")
        union all select 'registration', jsonb_build_array(new."id") where old."id" <> new."id"
        union all select 'registration.of_profile', jsonb_build_array(old."profile") where old."profile" is distinct from new."profile" or old."conference" is distinct from new."conference" or old."id" is distinct from new."id"
        union all select 'registration.of_profile', jsonb_build_array(new."profile") where old."profile" <> new."profile";
    return new;
end $$;
drop trigger if exists larder_registration_update_0191fdae on "registration";
create trigger larder_registration_update_0191fdae after update on "registration" for each row
    when (old.* is distinct from new.*)
    execute function larder_registration_update_0191fdae();
create or replace function larder_registration_delete_24402c80() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'registration', jsonb_build_array(old."id")
        union all select 'registration.of_profile', jsonb_build_array(old."profile");
    return old;
end $$;
drop trigger if exists larder_registration_delete_24402c80 on "registration";
create trigger larder_registration_delete_24402c80 after delete on "registration" for each row
    execute function larder_registration_delete_24402c80();
create or replace function larder_registration_truncate_98f89d8e() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key) values ('*', '[]');
    return null;
end $$;
drop trigger if exists larder_registration_truncate_98f89d8e on "registration";
create trigger larder_registration_truncate_98f89d8e after truncate on "registration"
    execute function larder_registration_truncate_98f89d8e();
create or replace function larder_session_insert_f79adaa9() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', jsonb_build_array(new."conference")
        union all select 'session', jsonb_build_array(new."id")
        union all select 'session.of_conference', jsonb_build_array(new."conference");
    return new;
end $$;
drop trigger if exists larder_session_insert_f79adaa9 on "session";
create trigger larder_session_insert_f79adaa9 after insert on "session" for each row
    execute function larder_session_insert_f79adaa9();
create or replace function larder_session_update_daa4bcaa() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', jsonb_build_array(old."conference")
        union all select 'conference_page', jsonb_build_array(new."conference") where old."conference" <> new."conference"
        union all select 'session', jsonb_build_array(old."id")
        union all select 'session', jsonb_build_array(new."id") where old."id" <> new."id"
        union all select 'session.of_conference', jsonb_build_array(old."conference") where old."conference" is distinct from new."conference" or old."starts" is distinct from new."starts" or old."id" is distinct from new."id"
        union all select 'session.of_conference', jsonb_build_array(new."conference") where old."conference" <> new."conference";
    return new;
end $$;
drop trigger if exists larder_session_update_daa4bcaa on "session";
create trigger larder_session_update_daa4bcaa after update on "session" for each row
    when (old.* is distinct from new.*)
    execute function larder_session_update_daa4bcaa();
create or replace function larder_session_delete_6def8e0e() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', jsonb_build_array(old."conference")
        union all select 'session', jsonb_build_array(old."id")
        union all select 'session.of_conference', jsonb_build_array(old."conference");
    return old;
end $$;
drop trigger if exists larder_session_delete_6def8e0e on "session";
create trigger larder_session_delete_6def8e0e after delete on "session" for each row
    execute function larder_session_delete_6def8e0e();
create or replace function larder_session_truncate_9635e37f() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (rule, key) values ('*', '[]');
    return null;
end $$;
drop trigger if exists larder_session_truncate_9635e37f on "session";
create trigger larder_session_truncate_9635e37f after truncate on "session"
    execute function larder_session_truncate_9635e37f();
create index if not exists larder_conference_list_by_city_d07e767b on "conference" ("city", "name", "id");
create index if not exists larder_conference_list_by_city_and_month_35a89065 on "conference" ("city", "month", "name", "id");
create index if not exists larder_conference_list_open_acbe29f9 on "conference" ("city", "name", "id") where seats_available > 0;
create index if not exists larder_session_list_of_conference_05b876be on "session" ("conference", "starts", "id");
create index if not exists larder_registration_list_of_profile_e13b9818 on "registration" ("profile", "conference", "id");
