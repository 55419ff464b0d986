--- The version of all of this, as `make install` and the rest name it.

return "0.1.0"
