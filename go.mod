module pilotlight

go 1.26.0
