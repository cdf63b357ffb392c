"""The live nodes without their middleware."""
