ALTER TABLE records ADD COLUMN note text;
