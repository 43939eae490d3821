create table profile (id text not null primary key, name text not null);
create table conference (
  id integer not null primary key,
  organizer text not null references profile (id),
  name text not null,
  city text not null,
  month integer not null,
  seats integer not null check (seats >= 0),
  seats_available integer not null check (seats_available between 0 and seats),
  about text not null,
  version integer not null default 1
);
create table session (
  id integer not null primary key,
  conference integer not null references conference (id) on delete cascade,
  title text not null,
  speaker text not null,
  starts text not null
);
-- The key is made of conference and profile, so that nobody can register twice.
create table registration (
  id text not null primary key,
  conference integer not null references conference (id),
  profile text not null references profile (id)
);
-- The confirmations that were mailed: a task that is carried out again mails none of them again.
create table confirmation (id text not null primary key);
