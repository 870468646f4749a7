DROP INDEX audit_by_record;
