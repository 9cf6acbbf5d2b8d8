"""Operations on arrays and grids; no files, no windows."""
