// The assembler file lets main.go declare functions without bodies.
