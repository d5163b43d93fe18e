"""Create a small plugin project. It works, and passes the conformance kit."""
