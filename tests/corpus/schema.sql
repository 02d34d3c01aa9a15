-- What the statements of reads.sql and writes.sql refer to.
create table users (id int primary key, name text, email text, parent_id int, created_at timestamptz, tags text[], data jsonb, active bool, doc xml, span int4range);
create table orders (id int primary key, user_id int, total numeric(10,2), placed_at timestamptz, status text, "Mixed" int, "select" int);
create table "Weird Table" ("a ""b""" int, ünïcode int);
create table empsalary (depname text, empno int, salary int, enroll_date date);
create view active_users as select * from users where active;
create schema app;
create table app.items (id int, label text);
create unlogged table scratch (id int);
create sequence ticket;
create view tickets as select nextval('ticket') as n;
create view over_tickets as select * from tickets;
create view over_scratch as select count(*) from scratch;
create function pure(int) returns int language sql immutable as 'select $1';
create function looks(int) returns int language sql stable as 'select $1';
create function writes_it(int) returns int language sql volatile as 'select $1';
create function app.writes_too() returns int language sql volatile as 'select 1';
create function touch(users) returns int language sql volatile as 'select 1';
