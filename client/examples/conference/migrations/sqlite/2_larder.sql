-- Written by larder-datastore. Running it again does no harm.
create table if not exists larder_outbox (id integer primary key, keys text not null);
create table if not exists larder_last (id integer not null);
insert into larder_last select 0 where not exists (select 1 from larder_last);
create trigger if not exists larder_outbox_last after delete on larder_outbox
    when old.id > (select id from larder_last)
begin
    update larder_last set id = old.id;
end;
create table if not exists larder_node (address text primary key, flushed boolean not null default 0);
create table if not exists larder_meta (store text primary key, leader text, until integer);
drop trigger if exists larder_conference_insert_66c026cd;
create trigger larder_conference_insert_66c026cd after insert on "conference" for each row
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["conference_page",' || json_quote(new."id") || '] ["conference",' || json_quote(new."id") || '] ["conference.by_city",' || json_quote(new."city") || '] ["conference.by_city_and_month",' || json_quote(new."city") || ',' || json_quote(new."month") || '] ["conference.open",' || json_quote(new."city") || '] '
    );
end;
drop trigger if exists larder_conference_update_8045ee4c;
create trigger larder_conference_update_8045ee4c after update on "conference" for each row
    when old."id" is not new."id" collate binary or old."organizer" is not new."organizer" collate binary or old."name" is not new."name" collate binary or old."city" is not new."city" collate binary or old."month" is not new."month" collate binary or old."seats" is not new."seats" collate binary or old."seats_available" is not new."seats_available" collate binary or old."about" is not new."about" collate binary or old."version" is not new."version" collate binary
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["conference_page",' || json_quote(old."id") || '] ["conference",' || json_quote(old."id") || '] ' || case when old."city" is not new."city" collate binary or old."name" is not new."name" collate binary or old."id" is not new."id" collate binary then '["conference.by_city",' || json_quote(old."city") || '] ' else '' end || case when old."city" is not new."city" collate binary or old."month" is not new."month" collate binary or old."name" is not new."name" collate binary or old."id" is not new."id" collate binary then '["conference.by_city_and_month",' || json_quote(old."city") || ',' || json_quote(old."month") || '] ' else '' end || case when old."city" is not new."city" collate binary or old."name" is not new."name" collate binary or old."id" is not new."id" collate binary or (select (seats_available > 0) from (select old."id" as "id", old."organizer" as "organizer", old."name" as "name", old."city" as "city", old."month" as "month", old."seats" as "seats", old."seats_available" as "seats_available", old."about" as "about", old."version" as "version") as row_) is not (select (seats_available > 0) from (select new."id" as "id", new."organizer" as "organizer", new."name" as "name", new."city" as "city", new."month" as "month", new."seats" as "seats", new."seats_available" as "seats_available", new."about" as "about", new."version" as "version") as row_) collate binary then '["conference.open",' || json_quote(old."city") || '] ' else '' end || case when old."id" <> new."id" collate binary then '["conference_page",' || json_quote(new."id") || '] ["conference",' || json_quote(new."id") || '] ' else '' end || case when old."city" <> new."city" collate binary then '["conference.by_city",' || json_quote(new."city") || '] ["conference.open",' || json_quote(new."city") || '] ' else '' end || case when old."city" <> new."city" collate binary or old."month" <> new."month" collate binary then '["conference.by_city_and_month",' || json_quote(new."city") || ',' || json_quote(new."month") || '] ' else '' end
    );
end;
drop trigger if exists larder_conference_delete_6f7badc8;
create trigger larder_conference_delete_6f7badc8 after delete on "conference" for each row
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["conference_page",' || json_quote(old."id") || '] ["conference",' || json_quote(old."id") || '] ["conference.by_city",' || json_quote(old."city") || '] ["conference.by_city_and_month",' || json_quote(old."city") || ',' || json_quote(old."month") || '] ["conference.open",' || json_quote(old."city") || '] '
    );
end;
drop trigger if exists larder_registration_insert_75f2721b;
create trigger larder_registration_insert_75f2721b after insert on "registration" for each row
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["registration",' || json_quote(new."id") || '] ["registration.of_profile",' || json_quote(new."profile") || '] '
    );
end;
drop trigger if exists larder_registration_update_60dca9e7;
create trigger larder_registration_update_60dca9e7 after update on "registration" for each row
    when old."id" is not new."id" collate binary or old."conference" is not new."conference" collate binary or old."profile" is not new."profile" collate binary
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["registration",' || json_quote(old."id") || '] ' || case when old."profile" is not new."profile" collate binary or old."conference" is not new."conference" collate binary or old."id" is not new."id" collate binary then '["registration.of_profile",' || json_quote(old."profile") || '] ' else '' end || case when old."id" <> new."id" collate binary then '["registration",' || json_quote(new."id") || '] ' else '' end || case when old."profile" <> new."profile" collate binary then '["registration.of_profile",' || json_quote(new."profile") || '] ' else '' end
    );
end;
drop trigger if exists larder_registration_delete_e35ac167;
create trigger larder_registration_delete_e35ac167 after delete on "registration" for each row
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["registration",' || json_quote(old."id") || '] ["registration.of_profile",' || json_quote(old."profile") || '] '
    );
end;
drop trigger if exists larder_session_insert_2a8f85bc;
create trigger larder_session_insert_2a8f85bc after insert on "session" for each row
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["conference_page",' || json_quote(new."conference") || '] ["session",' || json_quote(new."id") || '] ["session.of_conference",' || json_quote(new."conference") || '] '
    );
end;
drop trigger if exists larder_session_update_7d9423b7;
create trigger larder_session_update_7d9423b7 after update on "session" for each row
    when old."id" is not new."id" collate binary or old."conference" is not new."conference" collate binary or old."title" is not new."title" collate binary or old."speaker" is not new."speaker" collate binary or old."starts" is not new."starts" collate binary
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["conference_page",' || json_quote(old."conference") || '] ["session",' || json_quote(old."id") || '] ' || case when old."conference" is not new."conference" collate binary or old."starts" is not new."starts" collate binary or old."id" is not new."id" collate binary then '["session.of_conference",' || json_quote(old."conference") || '] ' else '' end || case when old."conference" <> new."conference" collate binary then '["conference_page",' || json_quote(new."conference") || '] ["session.of_conference",' || json_quote(new."conference") || '] ' else '' end || case when old."id" <> new."id" collate binary then '["session",' || json_quote(new."id") || '] ' else '' end
    );
end;
drop trigger if exists larder_session_delete_10cf575b;
create trigger larder_session_delete_10cf575b after delete on "session" for each row
begin
    insert into larder_outbox (id, keys) values (
        1 + max(coalesce((select max(id) from larder_outbox), 0), (select id from larder_last)),
        '["conference_page",' || json_quote(old."conference") || '] ["session",' || json_quote(old."id") || '] ["session.of_conference",' || json_quote(old."conference") || '] '
    );
end;
create index if not exists larder_conference_list_by_city_d07e767b on "conference" ("city", "name", "id");
create index if not exists larder_conference_list_by_city_and_month_35a89065 on "conference" ("city", "month", "name", "id");
create index if not exists larder_conference_list_open_acbe29f9 on "conference" ("city", "name", "id") where seats_available > 0;
create index if not exists larder_session_list_of_conference_05b876be on "session" ("conference", "starts", "id");
create index if not exists larder_registration_list_of_profile_e13b9818 on "registration" ("profile", "conference", "id");
