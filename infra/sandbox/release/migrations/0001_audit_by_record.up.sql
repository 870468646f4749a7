CREATE INDEX audit_by_record ON audit (record_id);
