"""What Alembic runs: the steps go through the connection, and in the transaction, of `open_book`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
