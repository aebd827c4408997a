"""Objects and lesions: matched one to one, counted, split, merged, missed."""
