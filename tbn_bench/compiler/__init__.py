"""One front end: a traced network becomes one native plan, or says why a part stays in torch."""
