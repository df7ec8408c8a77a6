"""What ``provcache_trio.status`` is made of; nothing else imports from here.

Reading order: ``report`` (what is told about a queue), ``page`` (the page for people, of which
``page.html``, ``page.css`` and two scripts are the parts), ``exposition`` (Prometheus),
``answers`` (what is answered to a request, without any I/O), ``app`` (ASGI) and ``server``
(HTTP over trio), which carry answers out.
"""
