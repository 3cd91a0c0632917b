"""A gateway to try: a scripted or a real small model server with the gate in front of it."""
