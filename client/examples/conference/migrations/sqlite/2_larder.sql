-- Written by larder-datastore. Running it again does no harm.
create table if not exists larder_outbox (
    id integer primary key autoincrement,
    rule text not null,
    key text not null
);
create table if not exists larder_node (address text primary key, flushed boolean not null default 0);
create table if not exists larder_meta (store text primary key, leader text, until integer);
drop trigger if exists larder_conference_insert_5c96843d;
create trigger larder_conference_insert_5c96843d after insert on "conference" for each row
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', json_array(new."id")
        union all select 'conference', json_array(new."id")
        union all select 'conference.by_city', json_array(new."city")
        union all select 'conference.by_city_and_month', json_array(new."city", new."month")
        union all select 'conference.open', json_array(new."city");
end;
drop trigger if exists larder_conference_update_dca14568;
create trigger larder_conference_update_dca14568 after update on "conference" for each row
    when old."id" is not new."id" or old."organizer" is not new."organizer" or old."name" is not new."name" or old."city" is not new."city" or old."month" is not new."month" or old."seats" is not new."seats" or old."seats_available" is not new."seats_available" or old."about" is not new."about" or old."version" is not new."version"
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', json_array(old."id")
        union all select 'conference_page', json_array(new."id") where old."id" <> new."id"
        union all select 'conference', json_array(old."id")
        union all select 'conference', json_array(new."id") where old."id" <> new."id"
        union all select 'conference.by_city', json_array(old."city") where old."city" is not new."city" or old."name" is not new."name" or old."id" is not new."id"
        union all select 'conference.by_city', json_array(new."city") where old."city" <> new."city"
        union all select 'conference.by_city_and_month', json_array(old."city", old."month") where old."city" is not new."city" or old."month" is not new."month" or old."name" is not new."name" or old."id" is not new."id"
        union all select 'conference.by_city_and_month', json_array(new."city", new."month") where old."city" <> new."city" or old."month" <> new."month"
        union all select 'conference.open', json_array(old."city") where old."city" is not new."city" or old."name" is not new."name" or old."id" is not new."id" or (select (seats_available > 0) from (select old."id" as "id", old."organizer" as "organizer", old."name" as "name", old."city" as "city", old."month" as "month", old."seats" as "seats", old."seats_available" as "seats_available", old."about" as "about", old."version" as "version") as row_) is not (select (seats_available > 0) from (select new."id" as "id", new."organizer" as "organizer", new."name" as "name", new."city" as "city", new."month" as "month", new."seats" as "seats", new."seats_available" as "seats_available", new."about" as "about", new."version" as "version") as row_)
        union all select 'conference.open', json_array(new."city") where old."city" <> new."city";
end;
drop trigger if exists larder_conference_delete_ae353b22;
create trigger larder_conference_delete_ae353b22 after delete on "conference" for each row
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', json_array(old."id")
        union all select 'conference', json_array(old."id")
        union all select 'conference.by_city', json_array(old."city")
        union all select 'conference.by_city_and_month', json_array(old."city", old."month")
        union all select 'conference.open', json_array(old."city");
end;
drop trigger if exists larder_registration_insert_841b8c1a;
create trigger larder_registration_insert_841b8c1a after insert on "registration" for each row
begin
    insert into larder_outbox (rule, key)
        select 'registration', json_array(new."id")
        union all select 'registration.of_profile', json_array(new."profile");
end;
drop trigger if exists larder_registration_update_d54389d6;
create trigger larder_registration_update_d54389d6 after update on "registration" for each row
    when old."id" is not new."id" or old."conference" is not new."conference" or old."profile" is not new."profile"
begin
    insert into larder_outbox (rule, key)
        select 'registration', json_array(old."id")
        union all select 'registration', json_array(new."id") where old."id" <> new."id"
        union all select 'registration.of_profile', json_array(old."profile") where old."profile" is not new."profile" or old."conference" is not new."conference" or old."id" is not new."id"
        union all select 'registration.of_profile', json_array(new."profile") where old."profile" <> new."profile";
end;
drop trigger if exists larder_registration_delete_909925fb;
create trigger larder_registration_delete_909925fb after delete on "registration" for each row
begin
    insert into larder_outbox (rule, key)
        select 'registration', json_array(old."id")
        union all select 'registration.of_profile', json_array(old."profile");
end;
drop trigger if exists larder_session_insert_eb97249e;
create trigger larder_session_insert_eb97249e after insert on "session" for each row
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', json_array(new."conference")
        union all select 'session', json_array(new."id")
        union all select 'session.of_conference', json_array(new."conference");
end;
drop trigger if exists larder_session_update_663fa965;
create trigger larder_session_update_663fa965 after update on "session" for each row
    when old."id" is not new."id" or old."conference" is not new."conference" or old."title" is not new."title" or old."speaker" is not new."speaker" or old."starts" is not new."starts"
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', json_array(old."conference")
        union all select 'conference_page', json_array(new."conference") where old."conference" <> new."conference"
        union all select 'session', json_array(old."id")
        union all select 'session', json_array(new."id") where old."id" <> new."id"
        union all select 'session.of_conference', json_array(old."conference") where old."conference" is not new."conference" or old."starts" is not new."starts" or old."id" is not new."id"
        union all select 'session.of_conference', json_array(new."conference") where old."conference" <> new."conference";
end;
drop trigger if exists larder_session_delete_4f598efa;
create trigger larder_session_delete_4f598efa after delete on "session" for each row
begin
    insert into larder_outbox (rule, key)
        select 'conference_page', json_array(old."conference")
        union all select 'session', json_array(old."id")
        union all select 'session.of_conference', json_array(old."conference");
end;
create index if not exists larder_conference_list_by_city_d07e767b on "conference" ("city", "name", "id");
create index if not exists larder_conference_list_by_city_and_month_35a89065 on "conference" ("city", "month", "name", "id");
create index if not exists larder_conference_list_open_acbe29f9 on "conference" ("city", "name", "id") where seats_available > 0;
create index if not exists larder_session_list_of_conference_05b876be on "session" ("conference", "starts", "id");
create index if not exists larder_registration_list_of_profile_e13b9818 on "registration" ("profile", "conference", "id");
