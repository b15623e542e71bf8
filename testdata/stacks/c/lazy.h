/* The functions of liblazy.so, as LAZY(name) each. */
#define LAZY_FUNCTIONS                                                                                  \
	LAZY(lazy0) LAZY(lazy1) LAZY(lazy2) LAZY(lazy3) LAZY(lazy4) LAZY(lazy5) LAZY(lazy6) LAZY(lazy7) \
	LAZY(lazy8) LAZY(lazy9) LAZY(lazy10) LAZY(lazy11) LAZY(lazy12) LAZY(lazy13) LAZY(lazy14) LAZY(lazy15)
