"""The parts of the database: tables, connections, the writer and the migrations."""
