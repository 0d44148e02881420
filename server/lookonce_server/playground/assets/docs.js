/** Shows the server's OpenAPI with Swagger UI. Module scripts run in order after deferred ones: the bundle is there. */
SwaggerUIBundle({
  url: "openapi.json",
  domNode: document.getElementById("interface"),
  deepLinking: true,
  validatorUrl: null, // else a badge is loaded from another host
});
