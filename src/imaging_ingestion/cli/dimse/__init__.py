"""`echo`, `find`, `move`, `get`: asking an application entity over DIMSE."""
