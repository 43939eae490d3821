-- Written by larder-datastore. Running it again does no harm.
create table if not exists larder_outbox (
    id bigint generated always as identity primary key,
    xid xid8 not null default pg_current_xact_id(),
    keys text not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index if not exists larder_outbox_xid on larder_outbox (xid);
create table if not exists larder_node (address text primary key, flushed bool not null default false);
create table if not exists larder_meta (store text primary key, leader text, until bigint);
create or replace function larder_conference_insert_742ccabe() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["conference_page",' || new."id" || '] ["conference",' || new."id" || '] ["conference.by_city",' || to_json(new."city")::text || '] ["conference.by_city_and_month",' || to_json(new."city")::text || ',' || new."month" || '] ["conference.open",' || to_json(new."city")::text || '] ');
    return null;
end $$;
drop trigger if exists larder_conference_insert_742ccabe on "conference";
create trigger larder_conference_insert_742ccabe after insert on "conference" for each row
    execute function larder_conference_insert_742ccabe();
create or replace function larder_conference_update_3e651240() returns trigger language plpgsql as $$
begin
    if old *<> new then
        insert into larder_outbox (keys) values ('["conference_page",' || old."id" || '] ["conference",' || old."id" || '] ' || case when row(old."city", old."name", old."id")::record *<> row(new."city", new."name", new."id")::record then '["conference.by_city",' || to_json(old."city")::text || '] ' else '' end || case when row(old."city", old."month", old."name", old."id")::record *<> row(new."city", new."month", new."name", new."id")::record then '["conference.by_city_and_month",' || to_json(old."city")::text || ',' || old."month" || '] ' else '' end || case when row(old."city", old."name", old."id", (select (seats_available > 0) from (select old.*) as row_))::record *<> row(new."city", new."name", new."id", (select (seats_available > 0) from (select new.*) as row_))::record then '["conference.open",' || to_json(old."city")::text || '] ' else '' end || case when old."id" <> new."id" then '["conference_page",' || new."id" || '] ["conference",' || new."id" || '] ' else '' end || case when old."city"::text <> new."city"::text collate "C" then '["conference.by_city",' || to_json(new."city")::text || '] ["conference.open",' || to_json(new."city")::text || '] ' else '' end || case when old."city"::text <> new."city"::text collate "C" or old."month" <> new."month" then '["conference.by_city_and_month",' || to_json(new."city")::text || ',' || new."month" || '] ' else '' end);
    end if;
    return null;
end $$;
drop trigger if exists larder_conference_update_3e651240 on "conference";
create trigger larder_conference_update_3e651240 after update on "conference" for each row
    execute function larder_conference_update_3e651240();
create or replace function larder_conference_delete_d0b6d238() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["conference_page",' || old."id" || '] ["conference",' || old."id" || '] ["conference.by_city",' || to_json(old."city")::text || '] ["conference.by_city_and_month",' || to_json(old."city")::text || ',' || old."month" || '] ["conference.open",' || to_json(old."city")::text || '] ');
    return null;
end $$;
drop trigger if exists larder_conference_delete_d0b6d238 on "conference";
create trigger larder_conference_delete_d0b6d238 after delete on "conference" for each row
    execute function larder_conference_delete_d0b6d238();
create or replace function larder_conference_truncate_10ad515d() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["*"]');
    return null;
end $$;
drop trigger if exists larder_conference_truncate_10ad515d on "conference";
create trigger larder_conference_truncate_10ad515d after truncate on "conference"
    execute function larder_conference_truncate_10ad515d();
create or replace function larder_registration_insert_64a645f5() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["registration",' || to_json(new."id")::text || '] ["registration.of_profile",' || to_json(new."profile")::text || '] ');
    return null;
end $$;
drop trigger if exists larder_registration_insert_64a645f5 on "registration";
create trigger larder_registration_insert_64a645f5 after insert on "registration" for each row
    execute function larder_registration_insert_64a645f5();
create or replace function larder_registration_update_60223e56() returns trigger language plpgsql as $$
begin
    if old *<> new then
        insert into larder_outbox (keys) values ('["registration",' || to_json(old."id")::text || '] ' || case when row(old."profile", old."conference", old."id")::record *<> row(new."profile", new."conference", new."id")::record then '["registration.of_profile",' || to_json(old."profile")::text || '] ' else '' end || case when old."id"::text <> new."id"::text collate "C" then '["registration",' || to_json(new."id")::text || '] ' else '' end || case when old."profile"::text <> new."profile"::text collate "C" then '["registration.of_profile",' || to_json(new."profile")::text || '] ' else '' end);
    end if;
    return null;
end $$;
drop trigger if exists larder_registration_update_60223e56 on "registration";
create trigger larder_registration_update_60223e56 after update on "registration" for each row
    execute function larder_registration_update_60223e56();
create or replace function larder_registration_delete_4b073b05() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["registration",' || to_json(old."id")::text || '] ["registration.of_profile",' || to_json(old."profile")::text || '] ');
    return null;
end $$;
drop trigger if exists larder_registration_delete_4b073b05 on "registration";
create trigger larder_registration_delete_4b073b05 after delete on "registration" for each row
    execute function larder_registration_delete_4b073b05();
create or replace function larder_registration_truncate_87d64ded() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["*"]');
    return null;
end $$;
drop trigger if exists larder_registration_truncate_87d64ded on "registration";
create trigger larder_registration_truncate_87d64ded after truncate on "registration"
    execute function larder_registration_truncate_87d64ded();
create or replace function larder_session_insert_304c1c36() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["conference_page",' || new."conference" || '] ["session",' || new."id" || '] ["session.of_conference",' || new."conference" || '] ');
    return null;
end $$;
drop trigger if exists larder_session_insert_304c1c36 on "session";
create trigger larder_session_insert_304c1c36 after insert on "session" for each row
    execute function larder_session_insert_304c1c36();
create or replace function larder_session_update_6370ef31() returns trigger language plpgsql as $$
begin
    if old *<> new then
        insert into larder_outbox (keys) values ('["conference_page",' || old."conference" || '] ["session",' || old."id" || '] ' || case when row(old."conference", old."starts", old."id")::record *<> row(new."conference", new."starts", new."id")::record then '["session.of_conference",' || old."conference" || '] ' else '' end || case when old."conference" <> new."conference" then '["conference_page",' || new."conference" || '] ["session.of_conference",' || new."conference" || '] ' else '' end || case when old."id" <> new."id" then '["session",' || new."id" || '] ' else '' end);
    end if;
    return null;
end $$;
drop trigger if exists larder_session_update_6370ef31 on "session";
create trigger larder_session_update_6370ef31 after update on "session" for each row
    execute function larder_session_update_6370ef31();
create or replace function larder_session_delete_b6032b78() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["conference_page",' || old."conference" || '] ["session",' || old."id" || '] ["session.of_conference",' || old."conference" || '] ');
    return null;
end $$;
drop trigger if exists larder_session_delete_b6032b78 on "session";
create trigger larder_session_delete_b6032b78 after delete on "session" for each row
    execute function larder_session_delete_b6032b78();
create or replace function larder_session_truncate_871296cf() returns trigger language plpgsql as $$
begin
    insert into larder_outbox (keys) values ('["*"]');
    return null;
end $$;
drop trigger if exists larder_session_truncate_871296cf on "session";
create trigger larder_session_truncate_871296cf after truncate on "session"
    execute function larder_session_truncate_871296cf();
create index if not exists larder_conference_list_by_city_d07e767b on "conference" ("city", "name", "id");
create index if not exists larder_conference_list_by_city_and_month_35a89065 on "conference" ("city", "month", "name", "id");
create index if not exists larder_conference_list_open_acbe29f9 on "conference" ("city", "name", "id") where seats_available > 0;
create index if not exists larder_session_list_of_conference_05b876be on "session" ("conference", "starts", "id");
create index if not exists larder_registration_list_of_profile_e13b9818 on "registration" ("profile", "conference", "id");
